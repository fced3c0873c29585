-- ARGV: id, record_s. Returns whether this call canceled the job.
local _, id, record_s = unpack(ARGV)
local status = redis.call('HGET', job_key(id), 'status')
if status ~= 'queued' and status ~= 'running' then return 0 end
conclude(id, 'canceled', tonumber(record_s))
return 1
