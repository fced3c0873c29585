-- ARGV: id, pinned, retention_s. The files of a pinned job are kept until it is unpinned, and retention_s after that.
local _, id, pinned, retention_s = unpack(ARGV)
local status = redis.call('HGET', job_key(id), 'status')
if not status then return 'missing' end
if status ~= 'succeeded' and status ~= 'queued' and status ~= 'running' then return 'over' end
local before = redis.call('HGET', job_key(id), 'pinned') or '0'
redis.call('HSET', job_key(id), 'pinned', pinned)
if status ~= 'succeeded' or before == pinned then return 'done' end
if pinned == '1' then
  redis.call('ZREM', p .. 'retention', id)
  redis.call('HDEL', job_key(id), 'expires_at')
else
  local ends = stamp(now + tonumber(retention_s))
  redis.call('ZADD', p .. 'retention', ends, id)
  redis.call('HSET', job_key(id), 'expires_at', ends)
end
return 'done'
