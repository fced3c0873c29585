-- ARGV: logarithm of the measured over the estimated seconds, least weight, names of the groups the job belongs to…
-- An exponentially weighted mean and variance: the first jobs count fully, later ones with the least weight.
local ratio, least = tonumber(ARGV[2]), tonumber(ARGV[3])
for number = 4, #ARGV do
  local key = p .. 'timing:' .. ARGV[number]
  local f = redis.call('HMGET', key, 'jobs', 'mean', 'variance')
  local jobs, mean, variance = tonumber(f[1] or '0'), tonumber(f[2] or '0'), tonumber(f[3] or '0')
  local weight = math.max(least, 1 / (jobs + 1))
  local step = ratio - mean
  redis.call('HSET', key, 'jobs', string.format('%.0f', jobs + 1), 'mean', string.format('%.9f', mean + weight * step),
    'variance', string.format('%.9f', (1 - weight) * (variance + weight * step * step)))
end
return 1
