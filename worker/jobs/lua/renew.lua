-- ARGV: id, token, lease_s, progress as JSON or ''
local _, id, token, lease_s, progress = unpack(ARGV)
local answer = standing(id, token)
if answer ~= 'held' then return answer end
redis.call('ZADD', p .. 'leases', stamp(now + tonumber(lease_s)), id)
redis.call('HDEL', job_key(id), 'spared')
if progress ~= '' then
  redis.call('HSET', job_key(id), 'progress', progress)
  emit(id, 'progress', progress)
end
return 'held'
