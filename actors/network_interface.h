// Hosts and their addresses: how an agent is started on its host, and which of a host's addresses a
// configuration means. A run's hosts share one configuration, so
// it names the network (a subnet or an interface) and each host finds its own address there. Pure
// but for the list of addresses; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"
#include "configs/run_config.h"

namespace tenax::actors {

struct LocalAddress {
  std::string interface;  ///< "eth0"
  std::string address;    ///< numeric IPv4
};

/// The IPv4 addresses of this host's interfaces that are up.
Result<std::vector<LocalAddress>> local_addresses();

/// The address of `candidates` that `text` means: an address ("10.0.0.3"), a subnet ("10.0.0.0/24")
/// or an interface ("eth0"). kInvalidArgument, with what there is, if there is none or `text` is
/// neither.
Result<std::string> choose_address(const std::string& text,
                                   const std::vector<LocalAddress>& candidates);

/// choose_address among local_addresses(); `key` is the configuration's, for the error.
Result<std::string> resolve_address(const std::string& key, const std::string& text);

/// What the kernel calls this host.
std::string host_name();

/// The words before the command that starts agent number `agent`: network.agent_launcher with
/// {host} and {agent} filled in. Empty: it is started on this machine.
std::vector<std::string> agent_launcher(const configs::NetworkSection& network,
                                        std::uint32_t agent);

/// True for 127.0.0.0/8.
bool is_loopback_address(const std::string& address);

}  // namespace tenax::actors
