-- ARGV: owner, rate, burst. Takes a token; returns 0, or the seconds until there is one.
local _, owner, rate, burst = unpack(ARGV)
rate, burst = tonumber(rate), tonumber(burst)
local bucket = p .. 'rate:' .. owner
local f = redis.call('HMGET', bucket, 'tokens', 'at')
local tokens = burst
if f[1] then tokens = math.min(burst, tonumber(f[1]) + math.max(0, now - tonumber(f[2])) * rate) end
local wait = 0
if tokens >= 1 then tokens = tokens - 1 else wait = (1 - tokens) / rate end
redis.call('HSET', bucket, 'tokens', stamp(tokens), 'at', stamp(now))
redis.call('PEXPIRE', bucket, math.ceil(1000 * burst / rate) + 1000) -- by then the bucket is full, as a missing one is
return stamp(wait)
