-- ARGV: id, token, max_lost, record_s, code, message. The worker gives the job back because the job caused an
-- error. It counts like a lost lease, and max_lost of them end the job. Returns 'failed' if it ended.
local _, id, token, max_lost, record_s, code, message = unpack(ARGV)
local f = redis.call('HMGET', job_key(id), 'status', 'token')
if f[1] == 'failed' and f[2] == token then return 'failed' end -- the same call repeated after a broken connection
if not is_complete() then return 'unknown' end
local answer = standing(id, token)
if answer ~= 'held' then return answer end
if shards_of(id) > 1 then
  local shard = redis.call('HGET', p .. 'held:' .. id, token)
  redis.call('HINCRBY', job_key(id), 'lost', 1)
  if redis.call('HINCRBY', p .. 'shards:' .. id, 'lost:' .. shard, 1) < tonumber(max_lost) then
    give_back(id, token)
    return 'held'
  end
  redis.call('HSET', job_key(id), 'token', token)
  fail(id, code, message, tonumber(record_s))
  return 'failed'
end
if redis.call('HINCRBY', job_key(id), 'lost', 1) - forgiven(id) >= tonumber(max_lost) then
  fail(id, code, message, tonumber(record_s))
  return 'failed'
end
requeue(id)
return 'held'
