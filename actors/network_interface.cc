#include "actors/network_interface.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <utility>

namespace tenax::actors {

namespace {

std::optional<std::uint32_t> parse_ipv4(const std::string& text) {
  in_addr address{};
  if (inet_pton(AF_INET, text.c_str(), &address) != 1) return std::nullopt;
  return ntohl(address.s_addr);
}

struct Subnet {
  std::uint32_t network = 0;
  std::uint32_t mask = 0;
  bool holds(std::uint32_t address) const { return (address & mask) == (network & mask); }
};

/// An address is the subnet that holds only itself.
std::optional<Subnet> parse_subnet(const std::string& text) {
  const auto slash = text.find('/');
  const auto network = parse_ipv4(text.substr(0, slash));
  if (!network) return std::nullopt;
  int bits = 32;
  if (slash != std::string::npos) {
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data() + slash + 1, end, bits);
    if (error != std::errc() || rest != end || bits < 0 || bits > 32) return std::nullopt;
  }
  return Subnet{*network, bits == 0 ? 0 : ~std::uint32_t{0} << (32 - bits)};
}

}  // namespace

Result<std::vector<LocalAddress>> local_addresses() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) {
    return make_error(ErrorCode::kIo,
                      fmt::format("list the network interfaces: {}", std::strerror(errno)));
  }
  std::vector<LocalAddress> found;
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET) continue;
    if ((i->ifa_flags & IFF_UP) == 0) continue;
    char text[INET_ADDRSTRLEN] = {};
    const auto* address = reinterpret_cast<const sockaddr_in*>(i->ifa_addr);
    inet_ntop(AF_INET, &address->sin_addr, text, sizeof text);
    found.push_back({i->ifa_name, text});
  }
  freeifaddrs(list);
  return found;
}

Result<std::string> choose_address(const std::string& text,
                                   const std::vector<LocalAddress>& candidates) {
  const auto subnet = parse_subnet(text);
  for (const LocalAddress& c : candidates) {
    const auto address = parse_ipv4(c.address);
    const bool meant = subnet ? address && subnet->holds(*address) : c.interface == text;
    if (meant) return c.address;
  }
  // All of 127.0.0.0/8 is this host's, though only 127.0.0.1 is listed.
  if (subnet && subnet->mask == ~std::uint32_t{0} && is_loopback_address(text)) return text;
  std::string there;
  for (const LocalAddress& c : candidates)
    there += fmt::format("{}{} {}", there.empty() ? "" : ", ", c.interface, c.address);
  return make_error(ErrorCode::kInvalidArgument,
                    fmt::format("\"{}\" is no IPv4 address, subnet or interface of this host, "
                                "which has {}",
                                text, there.empty() ? "none that is up" : there));
}

Result<std::string> resolve_address(const std::string& key, const std::string& text) {
  TENAX_TRY(const auto candidates, local_addresses());
  auto address = choose_address(text, candidates);
  if (!address)
    return make_error(address.error().code, fmt::format("{}: {}", key, address.error().message));
  return *address;
}

std::string host_name() {
  char host[256] = "localhost";
  gethostname(host, sizeof host - 1);
  return host;
}

std::vector<std::string> agent_launcher(const configs::NetworkSection& network,
                                        std::uint32_t agent) {
  const std::string host =
      network.hosts.empty() ? "localhost" : network.hosts[agent % network.hosts.size()];
  const std::pair<std::string, std::string> values[] = {{"{host}", host},
                                                        {"{agent}", std::to_string(agent)}};
  std::vector<std::string> words = network.agent_launcher;
  for (std::string& word : words) {
    for (const auto& [name, value] : values) {
      for (auto at = word.find(name); at != std::string::npos;
           at = word.find(name, at + value.size()))
        word.replace(at, name.size(), value);
    }
  }
  return words;
}

bool is_loopback_address(const std::string& address) {
  const auto ip = parse_ipv4(address);
  return ip && (*ip >> 24) == 127;
}

}  // namespace tenax::actors
