-- ARGV: id, record_s. Says whether this call did it.
local _, id, record_s = unpack(ARGV)
local status = redis.call('HGET', job_key(id), 'status')
if status ~= 'queued' and status ~= 'running' then return 0 end
conclude(id, 'canceled', tonumber(record_s))
return 1
