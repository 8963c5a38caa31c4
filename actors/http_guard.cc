#include "actors/http_guard.h"

#include <algorithm>
#include <cctype>
#include <cstddef>

namespace tenax::actors {
namespace {

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](unsigned char x, unsigned char y) {
    return std::tolower(x) == std::tolower(y);
  });
}

std::string_view without_brackets(std::string_view host) {
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    return host.substr(1, host.size() - 2);
  }
  return host;
}

bool is_ipv4_loopback(std::string_view host) {
  if (!host.starts_with("127.")) return false;
  int parts = 0;
  while (!host.empty()) {
    const std::size_t dot = std::min(host.find('.'), host.size());
    const std::string_view part = host.substr(0, dot);
    if (part.empty() || part.size() > 3 ||
        !std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      return false;
    }
    ++parts;
    host.remove_prefix(std::min(dot + 1, host.size()));
  }
  return parts == 4;
}

}  // namespace

bool is_loopback_host(std::string_view host) {
  const std::string_view bare = without_brackets(host);
  return equal_ignoring_case(bare, "localhost") || bare == "::1" || is_ipv4_loopback(bare);
}

std::string_view host_of_authority(std::string_view authority) {
  if (authority.starts_with('[')) {
    const std::size_t end = authority.find(']');
    return end == std::string_view::npos ? authority : authority.substr(0, end + 1);
  }
  return authority.substr(0, authority.rfind(':'));
}

bool host_allowed(std::string_view host_header, std::string_view bound_host) {
  const std::string_view host = host_of_authority(host_header);
  return !host.empty() &&
         (is_loopback_host(host) ||
          equal_ignoring_case(without_brackets(host), without_brackets(bound_host)));
}

bool origin_allowed(std::string_view origin_header, std::string_view host_header) {
  if (origin_header.empty()) return true;
  const std::size_t scheme_end = origin_header.find("://");
  if (scheme_end == std::string_view::npos) return false;
  const std::string_view scheme = origin_header.substr(0, scheme_end);
  return (scheme == "http" || scheme == "https") &&
         equal_ignoring_case(origin_header.substr(scheme_end + 3), host_header);
}

bool token_matches(std::string_view given, std::string_view expected) {
  if (expected.empty() || given.size() != expected.size()) return false;
  volatile unsigned char difference = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference = static_cast<unsigned char>(difference | (static_cast<unsigned char>(given[i]) ^
                                                          static_cast<unsigned char>(expected[i])));
  }
  return difference == 0;
}

std::string_view cookie_value(std::string_view cookie_header, std::string_view name) {
  while (!cookie_header.empty()) {
    const std::size_t end = std::min(cookie_header.find(';'), cookie_header.size());
    std::string_view pair = cookie_header.substr(0, end);
    while (pair.starts_with(' ')) pair.remove_prefix(1);
    if (pair.starts_with(name) && pair.size() > name.size() && pair[name.size()] == '=') {
      return pair.substr(name.size() + 1);
    }
    cookie_header.remove_prefix(std::min(end + 1, cookie_header.size()));
  }
  return {};
}

}  // namespace tenax::actors
