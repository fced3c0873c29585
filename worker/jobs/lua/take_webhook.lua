-- ARGV: in_flight_s. Returns the number of this attempt and the record of an ended job. A call within in_flight_s gets
-- another job; a later call gets the same one again, because the first caller may have died.
local _, in_flight_s = unpack(ARGV)
while true do
  local id = redis.call('ZRANGE', p .. 'webhooks', '-inf', stamp(now), 'BYSCORE', 'LIMIT', 0, 1)[1]
  if not id then return {} end
  if redis.call('EXISTS', job_key(id)) == 1 then
    redis.call('ZADD', p .. 'webhooks', stamp(now + tonumber(in_flight_s)), id)
    local attempt = redis.call('HINCRBY', job_key(id), 'webhook_attempts', 1)
    return {attempt, redis.call('HGETALL', job_key(id))}
  end
  redis.call('ZREM', p .. 'webhooks', id)
end
