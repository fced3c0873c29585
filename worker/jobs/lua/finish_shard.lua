-- ARGV: id, token, shard. Returns 'last' once all shards are finished; the job then waits to be sealed.
local _, id, token, shard = unpack(ARGV)
local by = redis.call('HGET', p .. 'shards:' .. id, 'by:' .. shard)
if by == token then return 'held' end -- the same call repeated after a broken connection
if not is_complete() then return 'unknown' end
local answer = standing(id, token)
if answer ~= 'held' then return answer end
drop_lease(id, id .. '/' .. token)
redis.call('HDEL', p .. 'held:' .. id, token)
redis.call('HDEL', p .. 'shards:' .. id, 'spared:' .. token)
redis.call('HSET', p .. 'shards:' .. id, 'by:' .. shard, token)
local done, shards = redis.call('HINCRBY', p .. 'shards:' .. id, 'done', 1), shards_of(id)
if done == shards then open_shard(id, SEAL) end
note_shards(id)
emit(id, 'shard', cjson.encode({shard = tonumber(shard), done = done, shards = shards}))
return done == shards and 'last' or 'held'
