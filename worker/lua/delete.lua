-- ARGV: id
local _, id = unpack(ARGV)
local status = redis.call('HGET', job_key(id), 'status')
if not status then return 'missing' end
if status == 'queued' or status == 'running' then return 'active' end
purge(id)
return 'deleted'
