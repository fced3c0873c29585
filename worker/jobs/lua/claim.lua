-- ARGV: id or '' for the head of the queue, worker, lease_s
-- Nothing is begun, and below nothing ended, by a broker that may have forgotten that it was ended before.
local _, id, worker, lease_s = unpack(ARGV)
if not is_complete() then return 'unknown' end
if id == '' then id = redis.call('ZRANGE', index('queued'), 0, 0)[1] end
if not id or redis.call('HGET', job_key(id), 'status') ~= 'queued' then return {} end
local token = string.format('%.0f', redis.call('INCR', p .. 'token'))
move(id, 'running')
redis.call('HINCRBY', job_key(id), 'attempts', 1)
redis.call('HSET', job_key(id), 'token', token, 'worker', worker, 'started_at', stamp(now))
redis.call('ZADD', p .. 'leases', stamp(now + tonumber(lease_s)), id)
emit_state(id)
return {token, redis.call('HGETALL', job_key(id))}
