/// std::mutex behind clang's thread-safety annotations (checked by the thread-safety preset; no effect under g++).
///
///     class Table {
///       Mutex mutex_;
///       int rows_ SBORA_GUARDED_BY(mutex_) = 0;
///     };
#pragma once

#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define SBORA_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define SBORA_THREAD_ANNOTATION(x)
#endif
#define SBORA_CAPABILITY(x) SBORA_THREAD_ANNOTATION(capability(x))
#define SBORA_SCOPED_CAPABILITY SBORA_THREAD_ANNOTATION(scoped_lockable)
#define SBORA_GUARDED_BY(x) SBORA_THREAD_ANNOTATION(guarded_by(x))
#define SBORA_REQUIRES(...) SBORA_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define SBORA_ACQUIRE(...) SBORA_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define SBORA_RELEASE(...) SBORA_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define SBORA_EXCLUDES(...) SBORA_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#define SBORA_NO_THREAD_SAFETY_ANALYSIS SBORA_THREAD_ANNOTATION(no_thread_safety_analysis)

namespace sbora {

class SBORA_CAPABILITY("mutex") Mutex {
 public:
  void lock() SBORA_ACQUIRE() { mutex_.lock(); }
  void unlock() SBORA_RELEASE() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

/// Holds the mutex for its own life. Waiting goes through `std::condition_variable_any` with this as the lock.
class SBORA_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) SBORA_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() SBORA_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

  // BasicLockable, for condition_variable_any only.
  void lock() SBORA_NO_THREAD_SAFETY_ANALYSIS { mutex_.lock(); }
  void unlock() SBORA_NO_THREAD_SAFETY_ANALYSIS { mutex_.unlock(); }

 private:
  Mutex& mutex_;
};

}  // namespace sbora
