-- How many jobs and shards wait for a worker, and how many are held. A queue of an older version has no ready:<owner>.
local waiting = 0
for _, owner in ipairs(redis.call('ZRANGE', p .. 'ready_owners', 0, -1)) do
  for _, id in ipairs(redis.call('ZRANGE', p .. 'ready:' .. owner, 0, -1)) do
    waiting = waiting + math.max(1, redis.call('ZCARD', p .. 'open:' .. id))
  end
end
return {math.max(waiting, redis.call('ZCARD', index('queued'))), redis.call('ZCARD', p .. 'leases')}
