-- ARGV: id, outcome or '' for another attempt, after seconds
local _, id, outcome, seconds = unpack(ARGV)
if redis.call('EXISTS', job_key(id)) == 0 then return 0 end
if outcome == '' then
  redis.call('ZADD', p .. 'webhooks', 'XX', stamp(now + tonumber(seconds)), id)
else
  redis.call('ZREM', p .. 'webhooks', id)
  redis.call('HSET', job_key(id), 'webhook_done', outcome)
end
return 1
