-- ARGV: owner, share, token, place_s, result key, idempotency key or '', places. Returns whether there are as many
-- places; -1: unknown.
local _, owner, share, token, place_s, result_key, idem, wanted = unpack(ARGV)
wanted = tonumber(wanted)
share = tonumber(share) - wanted + 1
if not is_complete() then return -1 end -- the number of active jobs is unknown

-- Requests that submit.lua answers with an existing job add no active job.
local same = redis.call('GET', p .. 'result:' .. result_key)
if same and redis.call('HGET', job_key(same), 'status') == 'succeeded' then return 1 end
local seen = idem ~= '' and redis.call('HGET', p .. 'idem:' .. idem, 'job')
if seen and redis.call('EXISTS', job_key(seen)) == 1 then return 1 end

local places = p .. 'places:' .. owner
redis.call('ZREMRANGEBYSCORE', places, '-inf', stamp(now))
local taken = redis.call('ZCARD', places)
for _, status in ipairs({'queued', 'running'}) do
  if taken < share then
    taken = taken + redis.call('ZINTERCARD', 2, p .. 'owner:' .. owner, index(status), 'LIMIT', share - taken)
  end
end
if taken >= share then return 0 end
for number = 1, wanted do redis.call('ZADD', places, stamp(now + tonumber(place_s)), token .. ':' .. number) end
redis.call('PEXPIRE', places, math.ceil(2000 * tonumber(place_s)))
return 1
