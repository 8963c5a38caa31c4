#include "wire/peer_sockets.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <future>
#include <map>
#include <thread>
#include <utility>
#include <vector>
#include <zmq.hpp>

#include "common/annotations.h"
#include "common/check.h"
#include "wire/curve_gate.h"

namespace tenax::wire {

namespace {
constexpr int kLingerMs = 200;
constexpr int kReconnectMs = 20;
constexpr int kReconnectMaxMs = 500;
constexpr int kFramesPerTurn = 256;

Error from_zmq(const zmq::error_t& e, const std::string& doing) {
  const ErrorCode code = e.num() == EADDRINUSE ? ErrorCode::kInUse
                         : e.num() == EACCES   ? ErrorCode::kPermission
                         : e.num() == EINVAL   ? ErrorCode::kInvalidArgument
                                               : ErrorCode::kUnavailable;
  return make_error(code, fmt::format("{}: {}", doing, e.what()));
}
}  // namespace

struct PeerSockets::Loop {
  using Work = std::function<void(Loop&)>;

  Loop(const KeyPair& k, Handler h)
      : keys(k),
        handler(std::move(h)),
        wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
        gate(context, k.public_key) {
    TENAX_CHECK(wake >= 0);
    thread = std::thread([this] { run(); });
  }

  ~Loop() {
    post([](Loop& loop) { loop.stopping = true; });
    thread.join();
    ::close(wake);
  }

  void post(Work work) {
    bool was_empty = false;
    {
      MutexLock lock(mutex);
      was_empty = queue.empty();
      queue.push_back(std::move(work));
    }
    if (was_empty) {
      const std::uint64_t one = 1;
      [[maybe_unused]] const auto n = ::write(wake, &one, sizeof one);
    }
  }

  void drain_queue() {
    std::uint64_t count = 0;
    [[maybe_unused]] const auto n = ::read(wake, &count, sizeof count);
    std::vector<Work> batch;
    {
      MutexLock lock(mutex);
      batch.swap(queue);
    }
    for (Work& work : batch) work(*this);
  }

  void run() {
    while (!stopping) {
      std::vector<zmq::pollitem_t> items{{nullptr, wake, ZMQ_POLLIN, 0},
                                         {gate.socket().handle(), 0, ZMQ_POLLIN, 0}};
      const std::size_t fixed = items.size();
      std::vector<SocketId> ids;
      for (auto& [id, socket] : sockets) {
        items.push_back({socket.handle(), 0, ZMQ_POLLIN, 0});
        ids.push_back(id);
      }
      try {
        zmq::poll(items, std::chrono::milliseconds(-1));
      } catch (const zmq::error_t& e) {
        if (e.num() == EINTR) continue;
        TENAX_CHECK(false && "zmq_poll");
      }
      for (std::size_t i = 0; i < ids.size(); ++i) {
        if (items[fixed + i].revents & ZMQ_POLLIN) receive(ids[i]);
      }
      if (items[1].revents & ZMQ_POLLIN) gate.answer();
      if (items[0].revents & ZMQ_POLLIN) drain_queue();
    }
    sockets.clear();
  }

  void receive(SocketId id) {
    zmq::socket_t& socket = sockets.at(id);
    const bool router = socket.get(zmq::sockopt::type) == ZMQ_ROUTER;
    for (int i = 0; i < kFramesPerTurn; ++i) {
      std::string peer;
      zmq::message_t part;
      if (!socket.recv(part, zmq::recv_flags::dontwait)) return;
      if (router) {
        peer = part.to_string();
        if (!part.more() || !socket.recv(part, zmq::recv_flags::dontwait)) continue;
      }
      // The protocol has one frame a message; a longer one is not ours.
      bool ours = !part.more();
      for (zmq::message_t rest; part.more() && socket.recv(rest, zmq::recv_flags::dontwait);) {
        ours = false;
        if (!rest.more()) break;
      }
      if (ours) handler(id, peer, {static_cast<const std::byte*>(part.data()), part.size()});
    }
  }

  void transmit(SocketId id, const std::string& peer, std::string frame) {
    const auto it = sockets.find(id);
    if (it == sockets.end()) {
      dropped.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    try {
      if (it->second.get(zmq::sockopt::type) == ZMQ_ROUTER &&
          !it->second.send(zmq::buffer(peer),
                           zmq::send_flags::sndmore | zmq::send_flags::dontwait)) {
        dropped.fetch_add(1, std::memory_order_relaxed);
        return;
      }
      if (!it->second.send(zmq::buffer(frame), zmq::send_flags::dontwait)) {
        dropped.fetch_add(1, std::memory_order_relaxed);
      }
    } catch (
        const zmq::error_t&) {  // EHOSTUNREACH: the peer is gone; its proxy learns it elsewhere
      dropped.fetch_add(1, std::memory_order_relaxed);
    }
  }

  template <class R>
  R ask(std::function<R(Loop&)> f) {
    std::promise<R> promise;
    auto future = promise.get_future();
    post([&](Loop& loop) { promise.set_value(f(loop)); });
    return future.get();
  }

  const KeyPair keys;
  Handler handler;
  int wake;
  zmq::context_t context{1};
  CurveGate gate;                             // touched by the loop's thread only
  std::map<SocketId, zmq::socket_t> sockets;  // touched by the loop's thread only
  SocketId next_id = 0;
  bool stopping = false;
  std::atomic<std::uint64_t> dropped{0};
  Mutex mutex;
  std::vector<Work> queue TENAX_GUARDED_BY(mutex);
  std::thread thread;
};

PeerSockets::PeerSockets(const KeyPair& keys, Handler handler)
    : loop_(std::make_unique<Loop>(keys, std::move(handler))) {}
PeerSockets::~PeerSockets() = default;

Result<PeerSockets::Bound> PeerSockets::bind_router(const std::string& endpoint) {
  return loop_->ask<Result<Bound>>([&](Loop& loop) -> Result<Bound> {
    try {
      zmq::socket_t socket(loop.context, ZMQ_ROUTER);
      socket.set(zmq::sockopt::linger, kLingerMs);
      socket.set(zmq::sockopt::curve_server, true);
      socket.set(zmq::sockopt::curve_secretkey, loop.keys.secret_key);
      socket.set(zmq::sockopt::router_mandatory, true);
      socket.set(zmq::sockopt::router_handover, true);
      socket.set(zmq::sockopt::sndhwm, 0);
      socket.set(zmq::sockopt::rcvhwm, 0);
      socket.bind(endpoint);
      const Bound bound{loop.next_id++, socket.get(zmq::sockopt::last_endpoint)};
      loop.sockets.emplace(bound.socket, std::move(socket));
      return bound;
    } catch (const zmq::error_t& e) {
      return from_zmq(e, fmt::format("listen on {}", endpoint));
    }
  });
}

Result<PeerSockets::SocketId> PeerSockets::connect_dealer(const std::string& endpoint,
                                                          const std::string& routing_id) {
  return loop_->ask<Result<SocketId>>([&](Loop& loop) -> Result<SocketId> {
    try {
      zmq::socket_t socket(loop.context, ZMQ_DEALER);
      socket.set(zmq::sockopt::linger, kLingerMs);
      socket.set(zmq::sockopt::curve_serverkey, loop.keys.public_key);
      socket.set(zmq::sockopt::curve_publickey, loop.keys.public_key);
      socket.set(zmq::sockopt::curve_secretkey, loop.keys.secret_key);
      socket.set(zmq::sockopt::routing_id, routing_id);
      socket.set(zmq::sockopt::reconnect_ivl, kReconnectMs);
      socket.set(zmq::sockopt::reconnect_ivl_max, kReconnectMaxMs);
      socket.set(zmq::sockopt::sndhwm, 0);
      socket.set(zmq::sockopt::rcvhwm, 0);
      socket.connect(endpoint);
      const SocketId id = loop.next_id++;
      loop.sockets.emplace(id, std::move(socket));
      return id;
    } catch (const zmq::error_t& e) {
      return from_zmq(e, fmt::format("connect to {}", endpoint));
    }
  });
}

void PeerSockets::close(SocketId socket) {
  loop_->post([socket](Loop& loop) { loop.sockets.erase(socket); });
}

void PeerSockets::send(SocketId socket, std::string peer, std::string frame) {
  loop_->post([socket, peer = std::move(peer), frame = std::move(frame)](Loop& loop) mutable {
    loop.transmit(socket, peer, std::move(frame));
  });
}

std::uint64_t PeerSockets::num_dropped() const {
  return loop_->dropped.load(std::memory_order_relaxed);
}

}  // namespace tenax::wire
