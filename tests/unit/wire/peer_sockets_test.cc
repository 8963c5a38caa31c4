#include "wire/peer_sockets.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>
#include <zmq.hpp>

namespace tenax::wire {
namespace {

const KeyPair& run_keys() {
  static const KeyPair keys = *make_key_pair();
  return keys;
}

/// Collects what arrives; wait(n) returns when n frames are there.
class Inbox {
 public:
  PeerSockets::Handler handler() {
    return [this](int socket, const std::string& peer, std::span<const std::byte> frame) {
      const std::scoped_lock lock(mutex_);
      frames_.push_back(
          {socket, peer, std::string(reinterpret_cast<const char*>(frame.data()), frame.size())});
      changed_.notify_all();
    };
  }
  struct Received {
    int socket;
    std::string peer;
    std::string text;
  };
  /// Fewer than `n` only after a minute of silence.
  std::vector<Received> wait(std::size_t n) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::minutes(1), [&] { return frames_.size() >= n; });
    return frames_;
  }

  std::vector<Received> now() {
    const std::scoped_lock lock(mutex_);
    return frames_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Received> frames_;
};

TEST(PeerSockets, FramesGoBothWaysUnderThePeersName) {
  Inbox at_router;
  Inbox at_dealer;
  PeerSockets router(run_keys(), at_router.handler());
  PeerSockets dealer(run_keys(), at_dealer.handler());
  const auto bound = router.bind_router("tcp://127.0.0.1:*");
  ASSERT_TRUE(bound) << bound.error().message;
  const auto socket = dealer.connect_dealer(bound->endpoint, "a1.7");
  ASSERT_TRUE(socket);
  dealer.send(*socket, "", "hello");
  const auto heard = at_router.wait(1);
  ASSERT_EQ(heard.size(), 1u);
  EXPECT_EQ(heard[0].peer, "a1.7");
  EXPECT_EQ(heard[0].text, "hello");
  router.send(bound->socket, "a1.7", std::string("wel\0come", 8));
  EXPECT_EQ(at_dealer.wait(1).at(0).text, std::string("wel\0come", 8));
}

TEST(PeerSockets, APortInUseIsSaid) {
  PeerSockets a(run_keys(), [](int, const std::string&, auto) {});
  PeerSockets b(run_keys(), [](int, const std::string&, auto) {});
  const auto bound = a.bind_router("tcp://127.0.0.1:*");
  ASSERT_TRUE(bound);
  const auto again = b.bind_router(bound->endpoint);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kInUse);
}

TEST(PeerSockets, AnAddressThatIsNoneIsAnError) {
  PeerSockets sockets(run_keys(), [](int, const std::string&, auto) {});
  EXPECT_FALSE(sockets.bind_router("nonsense"));
  EXPECT_FALSE(sockets.connect_dealer("tcp://", "x"));
}

TEST(PeerSockets, FramesForPeersThatAreNotThereAreDroppedAndCounted) {
  Inbox inbox;
  PeerSockets router(run_keys(), inbox.handler());
  const auto bound = router.bind_router("tcp://127.0.0.1:*");
  ASSERT_TRUE(bound);
  router.send(bound->socket, "nobody", "x");
  router.send(99, "nobody", "x");
  PeerSockets dealer(run_keys(), [](int, const std::string&, auto) {});
  const auto socket = dealer.connect_dealer(bound->endpoint, "d");
  ASSERT_TRUE(socket);
  dealer.send(*socket, "", "after");
  ASSERT_EQ(inbox.wait(1).size(), 1u);  // the two sends lie before it in the router's queue
  EXPECT_EQ(router.num_dropped(), 2u);
}

TEST(PeerSockets, ADealerThatDialledFirstReachesARouterThatComesLaterAndOneThatComesBack) {
  Inbox inbox;
  PeerSockets dealer(run_keys(), [](int, const std::string&, auto) {});
  std::string endpoint;
  {
    PeerSockets first(run_keys(), inbox.handler());
    endpoint = first.bind_router("tcp://127.0.0.1:*")->endpoint;
  }
  const auto socket = dealer.connect_dealer(endpoint, "d");
  ASSERT_TRUE(socket);
  dealer.send(*socket, "", "early");
  {
    PeerSockets second(run_keys(), inbox.handler());
    const auto bound = second.bind_router(endpoint);
    ASSERT_TRUE(bound) << bound.error().message;
    ASSERT_EQ(inbox.wait(1).at(0).text, "early");
  }
  PeerSockets third(run_keys(), inbox.handler());
  const auto bound = third.bind_router(endpoint);
  ASSERT_TRUE(bound) << bound.error().message;
  dealer.send(*socket, "", "late");
  EXPECT_EQ(inbox.wait(2).at(1).text, "late");
}

TEST(PeerSockets, ManyThreadsMaySendAndTheOrderOfEachIsKept) {
  constexpr int kThreads = 4;
  constexpr int kFrames = 500;
  Inbox inbox;
  PeerSockets router(run_keys(), inbox.handler());
  const auto bound = router.bind_router("tcp://127.0.0.1:*");
  ASSERT_TRUE(bound);
  PeerSockets dealer(run_keys(), [](int, const std::string&, auto) {});
  const auto socket = dealer.connect_dealer(bound->endpoint, "d");
  ASSERT_TRUE(socket);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kFrames; ++i)
        dealer.send(*socket, "", std::to_string(t) + " " + std::to_string(i));
    });
  }
  for (auto& thread : threads) thread.join();
  const auto heard = inbox.wait(kThreads * kFrames);
  ASSERT_EQ(heard.size(), static_cast<std::size_t>(kThreads * kFrames));
  std::vector<int> next(kThreads, 0);
  for (const auto& frame : heard) {
    const int t = frame.text[0] - '0';
    EXPECT_EQ(std::stoi(frame.text.substr(2)), next[t]++);
  }
}

TEST(PeerSockets, APeerWithAnotherKeyPairReachesNobodyAndIsNotReached) {
  Inbox at_router;
  PeerSockets router(run_keys(), at_router.handler());
  const auto bound = router.bind_router("tcp://127.0.0.1:*");
  ASSERT_TRUE(bound);
  Inbox at_stranger;
  PeerSockets stranger(*make_key_pair(), at_stranger.handler());
  const auto strange = stranger.connect_dealer(bound->endpoint, "a1.1");
  ASSERT_TRUE(strange);
  stranger.send(*strange, "", "let me in");
  // Knowing the server's public key does not help without the secret one.
  PeerSockets impostor({run_keys().public_key, make_key_pair()->secret_key}, at_stranger.handler());
  const auto false_peer = impostor.connect_dealer(bound->endpoint, "a1.2");
  ASSERT_TRUE(false_peer);
  impostor.send(*false_peer, "", "me too");
  zmq::context_t context;
  zmq::socket_t plain(context, ZMQ_DEALER);
  plain.set(zmq::sockopt::linger, 0);
  plain.connect(bound->endpoint);
  plain.send(zmq::str_buffer("in the clear"), zmq::send_flags::dontwait);

  PeerSockets member(run_keys(), [](int, const std::string&, auto) {});
  const auto socket = member.connect_dealer(bound->endpoint, "a2.1");
  ASSERT_TRUE(socket);
  for (int i = 0; i < 20; ++i) {
    member.send(*socket, "", "hello");
    ASSERT_EQ(at_router.wait(static_cast<std::size_t>(i) + 1).size(),
              static_cast<std::size_t>(i) + 1);
    router.send(bound->socket, "a1.1", "who is there?");
    router.send(bound->socket, "a1.2", "who is there?");
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  for (const auto& frame : at_router.wait(20)) EXPECT_EQ(frame.text, "hello");
  EXPECT_TRUE(at_stranger.now().empty());
}

TEST(KeyPair, AFreshPairIsValidAndHalvesOfTwoAreNot) {
  const auto one = make_key_pair();
  const auto two = make_key_pair();
  ASSERT_TRUE(one && two);
  EXPECT_TRUE(is_valid(*one));
  EXPECT_FALSE(is_valid({one->public_key, two->secret_key}));
  EXPECT_FALSE(is_valid({one->public_key, one->secret_key.substr(1)}));
  EXPECT_FALSE(is_valid({}));
}

TEST(PeerSockets, AClosedSocketDropsWhatIsSentToIt) {
  PeerSockets sockets(run_keys(), [](int, const std::string&, auto) {});
  const auto bound = sockets.bind_router("tcp://127.0.0.1:*");
  ASSERT_TRUE(bound);
  sockets.close(bound->socket);
  sockets.send(bound->socket, "p", "x");
  ASSERT_TRUE(sockets.bind_router("tcp://127.0.0.1:*"));  // done after the two above
  EXPECT_EQ(sockets.num_dropped(), 1u);
}

}  // namespace
}  // namespace tenax::wire
