#include "actors/network_interface.h"

#include <gtest/gtest.h>

namespace tenax::actors {
namespace {

const std::vector<LocalAddress> kHost = {
    {"lo", "127.0.0.1"}, {"eth0", "192.168.7.20"}, {"ib0", "10.1.2.3"}};

std::string chosen(const std::string& text) {
  const auto address = choose_address(text, kHost);
  return address ? *address : "error: " + address.error().message;
}

TEST(NetworkInterface, AnAddressASubnetAndANameEachFindTheHostsOwnAddress) {
  EXPECT_EQ(chosen("10.1.2.3"), "10.1.2.3");
  EXPECT_EQ(chosen("10.1.0.0/16"), "10.1.2.3");
  EXPECT_EQ(chosen("192.168.7.99/24"), "192.168.7.20");
  EXPECT_EQ(chosen("ib0"), "10.1.2.3");
  EXPECT_EQ(chosen("127.0.0.1"), "127.0.0.1");
  EXPECT_EQ(chosen("127.0.0.5"), "127.0.0.5");
  EXPECT_EQ(chosen("0.0.0.0/0"), "127.0.0.1");
}

TEST(NetworkInterface, WhatIsNotThereIsAnErrorThatListsWhatIs) {
  for (const char* text :
       {"10.1.2.4", "10.2.0.0/16", "eth1", "", "10.1.2.3/33", "10.1.2.3/x", "/8"}) {
    const auto address = choose_address(text, kHost);
    ASSERT_FALSE(address) << text;
    EXPECT_EQ(address.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(address.error().message.find("eth0 192.168.7.20"), std::string::npos);
  }
}

TEST(NetworkInterface, TheLauncherNamesHostAndAgent) {
  configs::NetworkSection network;
  EXPECT_TRUE(agent_launcher(network, 3).empty());
  network.hosts = {"n1", "n2"};
  network.agent_launcher = {"srun", "-w", "{host}", "--job-name=a{agent}-{host}"};
  EXPECT_EQ(agent_launcher(network, 1),
            (std::vector<std::string>{"srun", "-w", "n2", "--job-name=a1-n2"}));
  EXPECT_EQ(agent_launcher(network, 2)[2], "n1");
}

TEST(NetworkInterface, LoopbackIsAWholeNetwork) {
  EXPECT_TRUE(is_loopback_address("127.0.0.1"));
  EXPECT_TRUE(is_loopback_address("127.8.9.10"));
  EXPECT_FALSE(is_loopback_address("128.0.0.1"));
  EXPECT_FALSE(is_loopback_address("localhost"));
}

TEST(NetworkInterface, ThisHostHasLoopback) {
  const auto address = resolve_address("network.data_interface", "127.0.0.0/8");
  ASSERT_TRUE(address) << address.error().message;
  EXPECT_TRUE(is_loopback_address(*address));
  const auto missing = resolve_address("network.data_interface", "nosuch0");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message.find("network.data_interface: "), 0u);
}

}  // namespace
}  // namespace tenax::actors
