-- ARGV: id, kind, owner, spec, model_id, model_sha256, digest, request_digest, idempotency key or '', its lifetime,
-- result key, created_at, pinned, status ('queued' or final), finished_at, kept_from, keep_s, retention_s, result or
-- '', error code or '', error message, warnings as JSON or '', price as
-- JSON or '', shards or '', options as JSON or ''
-- Puts back a job that the broker has forgotten (1). Once the records are whole, a request on disk that has no record
-- is one that is just being submitted, or was refused. Whoever is known is left alone (0), unless the disk has an outcome
-- that the broker does not know of (2): clients may have been told.
local _, id, kind, owner, spec, model_id, model_sha256, digest, request_digest, idem, idem_s, result_key, created_at,
  pinned, status, finished_at, kept_from, keep_s, retention_s, result, code, message, warnings, price, shards,
  options = unpack(ARGV)
local known = redis.call('HGET', job_key(id), 'status')
if known then
  local outcome = status == 'failed' or status == 'canceled' or status == 'expired'
  local open = known == 'queued' or known == 'running'
  if not outcome or not (open or (known == 'succeeded' and status == 'expired')) then return 0 end
  withdraw(id)
  if status ~= 'canceled' then redis.call('HSET', job_key(id), 'token', '') end -- a canceled one's worker is told so
else
  if is_complete() then return 0 end
  insert(id, kind, owner, spec, model_id, model_sha256, digest, result_key, created_at, price, shards,
    options)
  local left_s = math.floor(idem_s - (now - created_at))
  if left_s > 0 then remember(id, idem, request_digest, left_s, '') end
  if pinned == '1' then redis.call('HSET', job_key(id), 'pinned', '1') end
  if status == 'queued' then return 1 end
end

finished_at, kept_from = tonumber(finished_at), tonumber(kept_from)
keep_s, retention_s = tonumber(keep_s), tonumber(retention_s)
if code ~= '' then redis.call('HSET', job_key(id), 'error_code', code, 'error_message', message) end
if result ~= '' then redis.call('HSET', job_key(id), 'result', result) end
if warnings ~= '' then redis.call('HSET', job_key(id), 'warnings', warnings) end
if status == 'succeeded' then
  redis.call('SET', p .. 'result:' .. result_key, id)
  if pinned ~= '1' then redis.call('HSET', job_key(id), 'expires_at', stamp(kept_from + retention_s)) end
end
conclude(id, status, keep_s - (now - kept_from))
redis.call('HSET', job_key(id), 'finished_at', stamp(finished_at))
return known and 2 or 1
