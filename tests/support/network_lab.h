// Several hosts on one machine: network namespaces joined by a bridge, whose cables can be cut. The
// calling process moves to a namespace of its own, the hub, so nothing of it touches the machine's
// network. Needs root and iproute2. One a process.
#pragma once

#include <string>

namespace tenax::testing {

class NetworkLab {
 public:
  /// Makes `num_hosts` hosts. usable() says whether that worked.
  explicit NetworkLab(int num_hosts);
  ~NetworkLab();
  NetworkLab(const NetworkLab&) = delete;
  NetworkLab& operator=(const NetworkLab&) = delete;

  /// Empty, or why there is no lab here: a reason to skip.
  const std::string& problem() const { return problem_; }
  /// Name of a host's namespace, for `ip netns exec`.
  std::string host(int index) const;
  /// What all names of hosts begin with; the index follows.
  std::string host_prefix() const { return prefix_ + "h"; }
  static std::string hub_address() { return "10.77.0.1"; }
  static std::string subnet() { return "10.77.0.0/24"; }
  /// Takes down, or up, the link between a host and the hub; the host itself sees nothing of it.
  void cut(int index);
  void heal(int index);

 private:
  bool ip(const std::string& arguments);

  int num_hosts_;
  std::string prefix_;
  std::string problem_;
};

}  // namespace tenax::testing
