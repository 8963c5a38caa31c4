// Memory of objects of one size that come and go: blocks are reused, so nothing is allocated once
// as many were in use as ever are. Shared by its blocks, which may outlive whoever made the pool.
// Confined to one thread.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>

namespace tenax::compute {

class BlockPool {
 public:
  BlockPool() = default;
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  ~BlockPool() {
    while (free_ != nullptr) ::operator delete(std::exchange(free_, free_->next));
  }

  /// A block of `bytes`, the same number for every block of the pool; given back by give().
  static void* take(std::shared_ptr<BlockPool> pool, std::size_t bytes) {
    void* memory = pool->free_;
    if (memory != nullptr)
      pool->free_ = pool->free_->next;
    else
      memory = ::operator new(sizeof(Header) + bytes);
    Header* const header = new (memory) Header{std::move(pool)};
    return header + 1;
  }
  static void give(void* block) {
    Header* const header = static_cast<Header*>(block) - 1;
    const std::shared_ptr<BlockPool> pool = std::move(header->pool);
    header->~Header();
    pool->free_ = new (static_cast<void*>(header)) Free{pool->free_};
  }

 private:
  struct alignas(std::max_align_t) Header {
    std::shared_ptr<BlockPool> pool;
  };
  struct Free {
    Free* next;
  };

  Free* free_ = nullptr;
};

}  // namespace tenax::compute
