// The communicator of a world of one rank: there is nobody to send to. Immutable but for abort().
#pragma once

#include <memory>
#include <string>

#include "compute/communicator.h"

namespace tenax::compute {

class SoloCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  std::unique_ptr<Transfer> send(int, std::uint64_t, std::span<const std::byte>) override {
    return std::make_unique<Nobody>();
  }
  std::unique_ptr<Transfer> recv(int, std::uint64_t, std::span<std::byte>) override {
    return std::make_unique<Nobody>();
  }
  void abort(std::string) override {}

 private:
  class Nobody final : public Transfer {
   public:
    Status wait() override {
      return make_error(ErrorCode::kInternal, "a transfer in a world of one rank");
    }
  };
};

}  // namespace tenax::compute
