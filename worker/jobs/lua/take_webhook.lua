-- ARGV: in_flight_s. Returns the number of this attempt and the record of what ended, for one caller: whoever asks within
-- in_flight_s gets another, whoever asks later the same again, for the first may have died.
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
