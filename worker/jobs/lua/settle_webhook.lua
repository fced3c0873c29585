-- ARGV: id, outcome or '' for another attempt, after seconds
local _, id, outcome, seconds = unpack(ARGV)
local key = redis.call('EXISTS', job_key(id)) == 1 and job_key(id) or batch_key(id)
if redis.call('EXISTS', key) == 0 then return 0 end
if outcome == '' then
  redis.call('ZADD', p .. 'webhooks', 'XX', stamp(now + tonumber(seconds)), id)
else
  redis.call('ZREM', p .. 'webhooks', id)
  redis.call('HSET', key, 'webhook_done', outcome)
end
return 1
