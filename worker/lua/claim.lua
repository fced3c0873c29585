-- ARGV: id or '' for the head of the queue, worker, lease_s
local _, id, worker, lease_s = unpack(ARGV)
if id == '' then id = redis.call('ZRANGE', index('queued'), 0, 0)[1] end
if not id or redis.call('HGET', job_key(id), 'status') ~= 'queued' then return {} end
local token = redis.call('INCR', p .. 'token')
if token == 1 then
  -- The counter begins, maybe again after a loss: no token of before may come back.
  token = math.floor(now * 1e6)
  redis.call('SET', p .. 'token', string.format('%.0f', token))
end
token = string.format('%.0f', token)
move(id, 'running')
redis.call('HINCRBY', job_key(id), 'attempts', 1)
redis.call('HSET', job_key(id), 'token', token, 'worker', worker, 'started_at', stamp(now))
redis.call('ZADD', p .. 'leases', stamp(now + tonumber(lease_s)), id)
emit_state(id)
return {token, redis.call('HGETALL', job_key(id))}
