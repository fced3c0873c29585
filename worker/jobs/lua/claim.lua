-- ARGV: worker, lease_s. Leases the next job, or one shard of it.
-- A broker that lost records may not know that a job has ended, so it starts none, and the other scripts end none.
local _, worker, lease_s = unpack(ARGV)
if not is_complete() then return 'unknown' end

local function next_ready()
  local owner = redis.call('ZRANGE', p .. 'ready_owners', 0, 0)[1]
  return owner and redis.call('ZRANGE', p .. 'ready:' .. owner, 0, 0)[1]
end

local id = next_ready() or redis.call('ZRANGE', index('queued'), 0, 0)[1]
if not id then return {} end
local status, shards = redis.call('HGET', job_key(id), 'status'), shards_of(id)
if status ~= 'queued' and not (status == 'running' and shards > 1) then return {} end
local token = string.format('%.0f', redis.call('INCR', p .. 'token'))
local shard, member = '', id
if shards > 1 then
  shard, member = redis.call('ZPOPMIN', p .. 'open:' .. id)[1], id .. '/' .. token
  if not shard then
    set_ready(id, false)
    return {}
  end
end
if status == 'queued' then
  move(id, 'running')
  redis.call('HINCRBY', job_key(id), 'attempts', 1)
  redis.call('HSET', job_key(id), 'started_at', stamp(now))
end
if shards == 1 or shard == SEAL then redis.call('HSET', job_key(id), 'token', token) end
redis.call('HSET', job_key(id), 'worker', worker)
take_lease(id, member, now + tonumber(lease_s))
if shards > 1 then
  redis.call('HSET', p .. 'held:' .. id, token, shard)
  note_shards(id)
end
if shards == 1 or redis.call('ZCARD', p .. 'open:' .. id) == 0 then set_ready(id, false) end
if status == 'queued' then emit_state(id) end
return {token, redis.call('HGETALL', job_key(id)), shard}
