-- ARGV: id, token, shards… Files of these shards are missing: they are computed again before the job is sealed.
local _, id, token = unpack(ARGV)
local answer = standing(id, token)
if answer ~= 'held' then return answer end
drop_lease(id, id .. '/' .. token)
redis.call('HDEL', p .. 'held:' .. id, token)
for number = 4, #ARGV do
  local shard = ARGV[number]
  redis.call('HDEL', p .. 'shards:' .. id, 'frame:' .. shard)
  if redis.call('HDEL', p .. 'shards:' .. id, 'by:' .. shard) == 1 then
    redis.call('HINCRBY', p .. 'shards:' .. id, 'done', -1)
    open_shard(id, shard)
  end
end
if redis.call('HGET', p .. 'shards:' .. id, 'done') == redis.call('HGET', job_key(id), 'shards') then
  open_shard(id, SEAL)
end
note_shards(id)
return 'held'
