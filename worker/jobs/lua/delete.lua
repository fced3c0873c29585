-- ARGV: id, force. With force '1' in any state: a record that a rebuilding restored while its client removed it.
-- Otherwise not before the records are complete, because a rebuilding in progress might restore it.
local _, id, force = unpack(ARGV)
if force ~= '1' and not is_complete() then return 'unknown' end
local status = redis.call('HGET', job_key(id), 'status')
if not status then return 'missing' end
if force ~= '1' and (status == 'queued' or status == 'running') then return 'active' end
purge(id)
return 'deleted'
