-- Asks nullpass about a request, sets the identity headers, or gives nullpass's answer in the application's place.
-- Whatever goes wrong here, the request is refused.

local HOST, PORT = "127.0.0.1", 8080
local OWN = "proxy:http://127.0.0.1:8080/_auth/"
local ROUTE = "/_auth/forward-auth"
local TIMEOUT = 5

local socket = require "socket"

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
    "Accept", "Authorization", "Content-Type", "Cookie", "Origin", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site",
    "Sec-WebSocket-Key", "Sec-WebSocket-Version", "User-Agent", "X-Request-Id", "X-Requested-With",
}

-- What belongs to a connection and not to an answer.
local HOP = { ["connection"] = true, ["content-length"] = true, ["keep-alive"] = true, ["transfer-encoding"] = true, ["date"] = true }

-- The name as an application that follows CGI reads it.
local function folded(name)
    return (name:lower():gsub("[_.]", "-"))
end

-- Status, headers (a list of pairs) and body of nullpass's answer; nil when there is none.
local function ask(fields)
    local connection = socket.tcp()
    connection:settimeout(TIMEOUT)
    if not connection:connect(HOST, PORT) then
        connection:close()
        return nil
    end
    local lines = { "GET " .. ROUTE .. " HTTP/1.1", "Host: " .. HOST .. ":" .. PORT, "Connection: close" }
    for _, field in ipairs(fields) do
        -- A line break would be a header of the client's own.
        if field[2]:find("[%c]") then
            connection:close()
            return nil
        end
        lines[#lines + 1] = field[1] .. ": " .. field[2]
    end
    local status, headers, body
    if connection:send(table.concat(lines, "\r\n") .. "\r\n\r\n") then
        local first = connection:receive("*l")
        status = first and tonumber(first:match("^HTTP/1%.1 (%d%d%d)"))
        headers = {}
        local line = status and connection:receive("*l")
        while line and line ~= "" do
            local name, value = line:match("^([^:%s]+):%s*(.-)%s*$")
            headers[#headers + 1] = name and { name:lower(), value } or nil
            line = connection:receive("*l")
        end
        -- A head that breaks off says nothing.
        if not line then
            status = nil
        end
        body = status and connection:receive("*a") or ""
    end
    connection:close()
    return status, headers, body
end

local function refuse(r, status, text)
    r.status = status
    r.content_type = "application/json"
    r.headers_out["Cache-Control"] = "no-store"
    r:puts('{"error":"' .. text .. '","code":"unavailable"}')
    return apache2.DONE
end

local function decide(r)
    -- What the client says about where it comes from is nothing; mod_proxy adds its own.
    for _, name in ipairs { "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Server", "Forwarded" } do
        r.headers_in[name] = nil
    end
    r.headers_in["X-Forwarded-Proto"] = r.is_https and "https" or "http"

    -- Sign-in, account, API: exactly what goes to nullpass itself. The question is Apache's to ask and nobody else's.
    local to = r.filename or ""
    if to:sub(1, #OWN) == OWN then
        if folded(r.unparsed_uri):find("forward-auth", 1, true) then
            return 404
        end
        return apache2.DECLINED
    end

    local fields = {
        { "X-Forwarded-Method", r.method },
        { "X-Forwarded-Proto", r.is_https and "https" or "http" },
        { "X-Forwarded-Host", r.headers_in["Host"] or "" },
        { "X-Forwarded-Uri", r.unparsed_uri },
        { "X-Forwarded-For", r.useragent_ip },
    }
    for _, name in ipairs(ASKED) do
        local value = r.headers_in[name]
        if value then
            fields[#fields + 1] = { name, value }
        end
    end
    local names = {}
    for name in pairs(r:headers_in_table()) do
        names[#names + 1] = name
    end
    for _, name in ipairs(names) do
        local plain = folded(name)
        if IDENTITY[plain] or plain:sub(1, 11) == "x-nullpass-" then
            r.headers_in[name] = nil
        end
    end

    -- mod_proxy drops what `Connection` names, and that must not be ours.
    local kept = {}
    for option in (r.headers_in["Connection"] or ""):gmatch("[^,%s]+") do
        if ({ close = true, ["keep-alive"] = true, upgrade = true })[option:lower()] then
            kept[#kept + 1] = option
        end
    end
    r.headers_in["Connection"] = #kept > 0 and table.concat(kept, ", ") or nil

    local status, headers, body = ask(fields)
    if not status or (status ~= 200 and status < 300) then
        return refuse(r, 503, "Signing in does not work at the moment.")
    end
    if status == 200 then
        for _, field in ipairs(headers) do
            local name, value = field[1], field[2]
            if IDENTITY[name] and value ~= "" then
                r.headers_in[name] = value
            elseif name == "set-cookie" then
                r.err_headers_out["Set-Cookie"] = value
            end
        end
        return apache2.DECLINED
    end
    r.status = status
    for _, field in ipairs(headers) do
        local name, value = field[1], field[2]
        if name == "content-type" then
            r.content_type = value
        elseif not HOP[name] then
            r.err_headers_out[name] = value
        end
    end
    r:puts(body)
    return apache2.DONE
end

function check(r)
    local fine, outcome = pcall(decide, r)
    if fine then
        return outcome
    end
    r:err("nullpass.lua: " .. tostring(outcome))
    return 503
end
