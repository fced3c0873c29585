-- ARGV: id, token. The worker gives the job back; this attempt does not count.
local _, id, token = unpack(ARGV)
local answer = standing(id, token)
if answer ~= 'held' then return answer end
if shards_of(id) > 1 then
  give_back(id, token)
  return 'held'
end
redis.call('HINCRBY', job_key(id), 'attempts', -1)
redis.call('HDEL', job_key(id), 'started_at')
requeue(id)
return 'held'
