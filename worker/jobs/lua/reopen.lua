-- ARGV: id, token, shards… Files of these shards are missing: they are computed again before the job is sealed.
local id, token = ARGV[2], ARGV[3] -- not by unpack: there may be more shards than fit on Lua's stack
local answer = standing(id, token)
if answer ~= 'held' then return answer end
drop_lease(id, id .. '/' .. token)
redis.call('HDEL', p .. 'held:' .. id, token)
for number = 4, #ARGV do
  local shard = ARGV[number]
  count_frames(id, shard)
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
