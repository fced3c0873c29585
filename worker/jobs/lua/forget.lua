-- ARGV: id, result_key
-- The files of this job are damaged, so it answers no other request; its record stays.
local _, id, result_key = unpack(ARGV)
if redis.call('GET', p .. 'result:' .. result_key) == id then redis.call('DEL', p .. 'result:' .. result_key) end
return 'done'
