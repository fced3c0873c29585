-- ARGV: id, token, code, message, record_s
local _, id, token, code, message, record_s = unpack(ARGV)
local f = redis.call('HMGET', job_key(id), 'status', 'token')
if f[1] == 'failed' and f[2] == token then return 'held' end -- the same call repeated after a broken connection
if not is_complete() then return 'unknown' end
local answer = standing(id, token)
if answer ~= 'held' then return answer end
redis.call('HSET', job_key(id), 'token', token)
fail(id, code, message, tonumber(record_s))
return 'held'
