-- ARGV: id, force. With force '1' whatever its state: a record that a rebuilding put back while its client removed it.
-- Else not before the records are whole: a rebuilding under way might put it back.
local _, id, force = unpack(ARGV)
if force ~= '1' and not is_complete() then return 'unknown' end
local status = redis.call('HGET', job_key(id), 'status')
if not status then return 'missing' end
if force ~= '1' and (status == 'queued' or status == 'running') then return 'active' end
purge(id)
return 'deleted'
