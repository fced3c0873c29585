-- ARGV: id, owner, request_digest, labels as JSON or '', webhook or '', webhook_done or '', created_at
-- Puts back the record of a batch after its jobs; one without jobs is left to the janitor.
local _, id, owner, request_digest, labels, webhook, webhook_done, created_at = unpack(ARGV)
if redis.call('EXISTS', batch_key(id)) == 1 or redis.call('ZCARD', p .. 'batch_jobs:' .. id) == 0 then return 0 end
if webhook_done ~= '' then redis.call('HSET', batch_key(id), 'webhook_done', webhook_done) end
keep_batch(id, owner, request_digest, labels, webhook, created_at)
return 1
