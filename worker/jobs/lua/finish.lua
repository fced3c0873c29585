-- ARGV: id, token, result, retention_s, key that names the content or '', warnings as JSON or ''
local _, id, token, result, retention_s, content, warnings = unpack(ARGV)
local f = redis.call('HMGET', job_key(id), 'status', 'token', 'result_key', 'pinned')
if f[1] == 'succeeded' and f[2] == token then return 'held' end -- the same call repeated after a broken connection
if not is_complete() then return 'unknown' end
local answer = standing(id, token)
if answer ~= 'held' then return answer end
redis.call('HSET', job_key(id), 'result', result)
if warnings ~= '' then redis.call('HSET', job_key(id), 'warnings', warnings) end
if f[4] ~= '1' then redis.call('HSET', job_key(id), 'expires_at', stamp(now + tonumber(retention_s))) end
if content ~= '' then
  redis.call('HSET', job_key(id), 'content', content)
  redis.call('SET', p .. 'content:' .. content, id)
end
conclude(id, 'succeeded', tonumber(retention_s))
redis.call('SET', p .. 'result:' .. f[3], id)
return 'held'
