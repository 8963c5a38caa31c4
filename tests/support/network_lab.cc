#include "tests/support/network_lab.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace tenax::testing {

NetworkLab::NetworkLab(int num_hosts)
    : num_hosts_(num_hosts), prefix_(fmt::format("tx{}", getpid())) {
  if (geteuid() != 0) {
    problem_ = "network namespaces need root";
    return;
  }
  if (std::system("command -v ip >/dev/null") != 0) {
    problem_ = "iproute2 is not installed";
    return;
  }
  if (unshare(CLONE_NEWNET) != 0) {
    problem_ = fmt::format("no network namespace: {}", std::strerror(errno));
    return;
  }
  bool made = ip("link set lo up") && ip("link add hub type bridge") && ip("link set hub up") &&
              ip(fmt::format("addr add {}/24 dev hub", hub_address()));
  for (int i = 0; i < num_hosts_ && made; ++i) {
    made = ip("netns add " + host(i)) &&
           ip(fmt::format("link add cable{} type veth peer name eth0 netns {}", i, host(i))) &&
           ip(fmt::format("link set cable{} master hub up", i)) &&
           ip(fmt::format("-n {} link set lo up", host(i))) &&
           ip(fmt::format("-n {} addr add 10.77.0.{}/24 dev eth0", host(i), i + 2)) &&
           ip(fmt::format("-n {} link set eth0 up", host(i)));
  }
  if (!made) problem_ = "the kernel or its settings allow no bridge of network namespaces";
}

NetworkLab::~NetworkLab() {
  for (int i = 0; i < num_hosts_; ++i) ip("netns del " + host(i));
}

std::string NetworkLab::host(int index) const { return fmt::format("{}{}", host_prefix(), index); }

void NetworkLab::cut(int index) { ip(fmt::format("link set cable{} nomaster", index)); }

void NetworkLab::heal(int index) { ip(fmt::format("link set cable{} master hub", index)); }

bool NetworkLab::ip(const std::string& arguments) {
  return std::system(fmt::format("ip {} >/dev/null 2>&1", arguments).c_str()) == 0;
}

}  // namespace tenax::testing
