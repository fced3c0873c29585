-- ARGV: owner, window_s, retention_s, record_s. How many jobs are active, the owner's among them, and how many ended
-- within the window: the retention index holds when a job ended, plus how long it is kept.
local _, owner, window_s, retention_s, record_s = unpack(ARGV)
window_s, retention_s, record_s = tonumber(window_s), tonumber(retention_s), tonumber(record_s)
local own, active = 0, 0
for _, status in ipairs({'queued', 'running'}) do
  active = active + redis.call('ZCARD', index(status))
  own = own + redis.call('ZINTERCARD', 2, p .. 'owner:' .. owner, index(status))
end
local ended = redis.call('ZCOUNT', p .. 'retention', stamp(now + retention_s - window_s), stamp(now + retention_s))
if record_s ~= retention_s then
  ended = ended + redis.call('ZCOUNT', p .. 'retention', stamp(now + record_s - window_s), stamp(now + record_s))
end
return {active, own, ended}
