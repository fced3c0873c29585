-- ARGV: round. Says that every recorded request has been restored since the round began; 0 if the broker was restarted or
-- flushed meanwhile.
local _, round = unpack(ARGV)
local began = redis.call('GETDEL', p .. 'round:' .. round)
if began ~= run_id() then return 0 end
redis.call('SET', p .. 'whole', began)
return 1
