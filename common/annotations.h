// Clang's thread-safety annotations (-Wthread-safety); empty for other compilers.
#pragma once

#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define TENAX_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define TENAX_THREAD_ANNOTATION(x)
#endif

#define TENAX_CAPABILITY(x) TENAX_THREAD_ANNOTATION(capability(x))
#define TENAX_SCOPED_CAPABILITY TENAX_THREAD_ANNOTATION(scoped_lockable)
#define TENAX_GUARDED_BY(x) TENAX_THREAD_ANNOTATION(guarded_by(x))
#define TENAX_REQUIRES(...) TENAX_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define TENAX_ACQUIRE(...) TENAX_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define TENAX_RELEASE(...) TENAX_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define TENAX_EXCLUDES(...) TENAX_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))

namespace tenax {

/// std::mutex with the annotations that -Wthread-safety needs.
class TENAX_CAPABILITY("mutex") Mutex {
 public:
  void lock() TENAX_ACQUIRE() { mutex_.lock(); }
  void unlock() TENAX_RELEASE() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class TENAX_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) TENAX_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() TENAX_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

/// Condition variable for Mutex.
using CondVar = std::condition_variable_any;

}  // namespace tenax
