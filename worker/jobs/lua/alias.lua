-- ARGV: idempotency key, id, request_digest, lifetime. Restores a key that was answered with the job of another
-- request.
local _, idem, id, request_digest, idem_s = unpack(ARGV)
if redis.call('EXISTS', p .. 'idem:' .. idem) == 1 or redis.call('EXISTS', job_key(id)) == 0 then return 0 end
remember(id, idem, request_digest, idem_s, '1')
return 1
