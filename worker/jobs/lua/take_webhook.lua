-- ARGV: in_flight_s. Returns the number of this attempt, the record of an ended job or batch, and which of both it is. A
-- call within in_flight_s gets another; a later call gets the same one again, because the first caller may have died.
local _, in_flight_s = unpack(ARGV)
while true do
  local id = redis.call('ZRANGE', p .. 'webhooks', '-inf', stamp(now), 'BYSCORE', 'LIMIT', 0, 1)[1]
  if not id then return {} end
  for kind, key in pairs({job = job_key(id), batch = batch_key(id)}) do
    if redis.call('EXISTS', key) == 1 then
      redis.call('ZADD', p .. 'webhooks', stamp(now + tonumber(in_flight_s)), id)
      local attempt = redis.call('HINCRBY', key, 'webhook_attempts', 1)
      return {attempt, redis.call('HGETALL', key), kind}
    end
  end
  redis.call('ZREM', p .. 'webhooks', id)
end
