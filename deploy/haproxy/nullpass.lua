-- Asks nullpass about a request, sets the identity headers, or gives nullpass's answer in the application's place.
-- Whatever goes wrong here, the request is refused.

local ADDRESS = "http://127.0.0.1:8080/_auth/forward-auth"
local TIMEOUT_MS = 5000

-- What an application may take for nullpass's. Add the names of `[identity] headers`.
local IDENTITY = {}
for _, name in ipairs {
    "x-forwarded-user", "x-forwarded-email", "x-forwarded-preferred-username", "x-forwarded-user-id", "x-forwarded-name",
    "x-forwarded-groups", "remote-user", "x-remote-user", "remote-email", "remote-name", "remote-groups",
    "x-auth-request-user", "x-auth-request-email", "x-auth-request-preferred-username", "x-auth-request-groups",
    "x-authentik-username", "x-authentik-email", "x-authentik-name", "x-authentik-uid", "x-authentik-groups",
    "x-nullpass-assertion",
    -- Some applications take another method or path from these.
    "x-http-method", "x-http-method-override", "x-method-override", "x-rewrite-url",
} do
    IDENTITY[name] = true
end

-- What nullpass needs of the request; nothing else is sent, so nobody can put the question in a second way.
local ASKED = {
    "accept", "authorization", "content-type", "cookie", "origin", "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site",
    "sec-websocket-key", "sec-websocket-version", "user-agent", "x-request-id", "x-requested-with",
}

-- What belongs to a connection and not to an answer.
local HOP = { ["connection"] = true, ["content-length"] = true, ["keep-alive"] = true, ["transfer-encoding"] = true, ["date"] = true }

-- The name as an application that follows CGI reads it.
local function folded(name)
    return (name:lower():gsub("[_.]", "-"))
end

local function values(headers, name)
    local all, list = {}, headers[name]
    local at = 0
    while list and list[at] do
        all[#all + 1] = list[at]
        at = at + 1
    end
    return all
end

local function refusal(txn, status, text)
    local reply = txn:reply({ status = status })
    reply:add_header("content-type", "application/json")
    reply:add_header("cache-control", "no-store")
    reply:set_body('{"error":"' .. text .. '","code":"unavailable"}')
    return reply
end

-- The answer to give in the application's place; nil: the request may go on.
local function check(txn)
    local headers = txn.http:req_get_headers()
    local host = values(headers, "host")
    if #host ~= 1 then
        return refusal(txn, 400, "One Host is needed.")
    end
    local question = {
        ["x-forwarded-method"] = { txn.sf:method() },
        ["x-forwarded-proto"] = { txn.sf:ssl_fc() == 1 and "https" or "http" },
        ["x-forwarded-host"] = host,
        ["x-forwarded-uri"] = { txn.sf:pathq() },
        ["x-forwarded-for"] = { txn.sf:src() },
    }
    for _, name in ipairs(ASKED) do
        local found = values(headers, name)
        if #found > 0 then
            question[name] = found
        end
    end
    for name in pairs(headers) do
        local plain = folded(name)
        if IDENTITY[plain] or plain:sub(1, 11) == "x-nullpass-" then
            txn.http:req_del_header(name)
        end
    end

    local answer = core.httpclient():get({ url = ADDRESS, headers = question, timeout = TIMEOUT_MS })
    if not answer or not answer.status or answer.status < 200 or not answer.headers then
        return refusal(txn, 503, "Signing in does not work at the moment.")
    end
    if answer.status == 200 then
        for name in pairs(IDENTITY) do
            local value = values(answer.headers, name)[1]
            if value and value ~= "" then
                txn.http:req_set_header(name, value)
            end
        end
        local cookie = values(answer.headers, "set-cookie")[1]
        if cookie then
            txn:set_var("txn.nullpass_cookie", cookie)
        end
        return nil
    end
    if answer.status < 300 then
        return refusal(txn, 503, "Signing in does not work at the moment.")
    end
    local reply = txn:reply({ status = answer.status })
    for name in pairs(answer.headers) do
        if not HOP[name] then
            for _, value in ipairs(values(answer.headers, name)) do
                reply:add_header(name, value)
            end
        end
    end
    reply:set_body(answer.body or "")
    return reply
end

core.register_action("nullpass", { "http-req" }, function(txn)
    -- An error in an action lets the request go on; it must not. `done` ends by an error of its own, so it comes last.
    local fine, reply = pcall(check, txn)
    if not fine then
        core.Alert("nullpass.lua: " .. tostring(reply))
        reply = refusal(txn, 503, "Signing in does not work at the moment.")
    end
    if reply then
        txn:done(reply)
    end
end, 0)
