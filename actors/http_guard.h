// Who may ask the dashboard's server what: pure decisions on the headers of a request, without a
// socket. They keep out web pages of other sites that reach a loopback server through the user's
// browser (DNS rebinding, cross-site requests) and, on a shared machine, other users' stop
// commands. Value types, no thread rule.
#pragma once

#include <string_view>

namespace tenax::actors {

/// True for "localhost", 127.0.0.0/8 and ::1 (with or without brackets); a name is never resolved.
bool is_loopback_host(std::string_view host);

/// The host part of a Host header or authority: "[::1]:80" -> "[::1]", "localhost:80" ->
/// "localhost".
std::string_view host_of_authority(std::string_view authority);

/// True if the Host header names this machine's loopback or exactly `bound_host`. A rebound DNS
/// name does neither. The port is not compared: behind `ssh -L` it is another one. A missing header
/// is refused.
bool host_allowed(std::string_view host_header, std::string_view bound_host);

/// True if there is no Origin header (not a browser, or a same-origin GET) or it is "http(s)://" +
/// the Host header.
bool origin_allowed(std::string_view origin_header, std::string_view host_header);

/// Compares in a time that depends only on the lengths. An empty `expected` matches nothing.
bool token_matches(std::string_view given, std::string_view expected);

/// The value of cookie `name` in a Cookie header, empty if it has none.
std::string_view cookie_value(std::string_view cookie_header, std::string_view name);

}  // namespace tenax::actors
