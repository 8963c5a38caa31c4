#include "tests/unit/checkpoint/crash_child.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "checkpoint/slot.h"
#include "checkpoint/store.h"
#include "tests/unit/checkpoint/model_on_disk.h"

extern char** environ;

namespace tenax::checkpoint {

namespace {

StepHook die_at(std::string step, int count) {
  return [step = std::move(step), count, seen = 0](std::string_view at) mutable -> Status {
    if (at == step && ++seen == count) ::kill(::getpid(), SIGKILL);
    return {};
  };
}

int fail(const Error& error) {
  std::fprintf(stderr, "crash child: %s\n", error.message.c_str());
  return 1;
}

int save_and_die(const std::string& run, std::uint64_t id, const std::string& step, int count) {
  StoreOptions options = store_options();
  options.hook = die_at(step, count);
  const auto store = Store::open(run, options);
  if (!store) return fail(store.error());
  SaveOptions how;
  how.step = static_cast<std::int64_t>(10 * id);
  how.journal_seq = id;
  how.write.hook = die_at(step, count);
  const auto saved = save(**store, id, random_model(id), how);
  return saved ? 0 : fail(saved.error());
}

int remove_and_die(const std::string& run, std::uint64_t id, const std::string& step) {
  StoreOptions options = store_options();
  options.hook = die_at(step, 1);
  const auto store = Store::open(run, options);
  if (!store) return fail(store.error());
  const std::vector<JournalRecord> why = {{1000 + id, "removed"}};
  const auto removed = (*store)->remove(id, why);
  return removed ? 0 : fail(removed.error());
}

/// Checkpoint `id` has the contents random_model(id); record `id` says that it was acknowledged.
int loop(const std::string& run) {
  const auto store = Store::open(run, store_options());
  if (!store) return fail(store.error());
  std::uint64_t id = *(*store)->highest_checkpoint_id();
  std::uint64_t seq = (*store)->last_journal_seq()->value_or(0);
  while (true) {
    SaveOptions how;
    how.step = static_cast<std::int64_t>(++id);
    how.seed = id;
    how.journal_seq = ++seq;
    const auto saved = save(**store, id, random_model(id), how);
    if (!saved) return fail(saved.error());
    std::printf("%llu\n", static_cast<unsigned long long>(id));
    std::fflush(stdout);
    const std::vector<JournalRecord> report = {{++seq, "step"}};
    if (const auto s = (*store)->append_journal(report, "state"); !s) return fail(s.error());
    if (id > 3 && (*store)->manifest(id - 3)) {
      const std::vector<JournalRecord> why = {{++seq, "removed"}};
      if (const auto s = (*store)->remove(id - 3, why); !s) return fail(s.error());
    }
  }
}

int seal_and_die(const std::string& prefix, std::uint64_t bytes, std::int64_t step) {
  auto pair = SlotPair::open(prefix, bytes);
  if (!pair) return fail(pair.error());
  const auto payload = pair->begin(0);
  std::memset(payload.data(), static_cast<int>(step), payload.size());
  const SlotHeader header{2, step, 3, 4, bytes, hash128(payload)};
  if (const auto sealed = pair->seal(0, header); !sealed) return fail(sealed.error());
  std::memset(pair->begin(1).data(), 1, bytes / 2);
  ::kill(::getpid(), SIGKILL);
  return 1;
}

/// A worker that is stopped with its slots in hand, and when it wakes goes on as if nothing were.
int stop_and_scribble(const std::string& prefix, std::uint64_t bytes) {
  auto pair = SlotPair::open(prefix, bytes);
  if (!pair) return fail(pair.error());
  std::memset(pair->begin(0).data(), 'o', bytes);
  if (const auto s = pair->seal(0, {2, 10, 3, 4, bytes, std::nullopt}); !s) return fail(s.error());
  ::raise(SIGSTOP);
  for (const int index : {0, 1}) {
    std::memset(pair->begin(index).data(), 'x', bytes);
    const auto s = pair->seal(index, {2, 99, 3, 4, bytes, std::nullopt});
    if (!s) return fail(s.error());
  }
  return 0;
}

}  // namespace

int spawn_crash_child(const std::vector<std::string>& args) {
  std::vector<std::string> all = {"/proc/self/exe", std::string(kCrashChild)};
  all.insert(all.end(), args.begin(), args.end());
  std::vector<char*> argv;
  for (std::string& a : all) argv.push_back(a.data());
  argv.push_back(nullptr);
  pid_t pid = -1;
  if (::posix_spawn(&pid, "/proc/self/exe", nullptr, nullptr, argv.data(), environ) != 0) return -1;
  return pid;
}

ChildResult wait_for(int pid) {
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid) return {};
  if (WIFSIGNALED(status)) return {-1, WTERMSIG(status)};
  return {WEXITSTATUS(status), 0};
}

ChildResult run_crash_child(const std::vector<std::string>& args) {
  return wait_for(spawn_crash_child(args));
}

int crash_child_main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 2, argv + argc);
  if (args.empty()) return 2;
  if (args[0] == "save") {
    return save_and_die(args.at(1), std::stoull(args.at(2)), args.at(3), std::stoi(args.at(4)));
  }
  if (args[0] == "remove") return remove_and_die(args.at(1), std::stoull(args.at(2)), args.at(3));
  if (args[0] == "loop") return loop(args.at(1));
  if (args[0] == "slot")
    return seal_and_die(args.at(1), std::stoull(args.at(2)), std::stoll(args.at(3)));
  if (args[0] == "stop") return stop_and_scribble(args.at(1), std::stoull(args.at(2)));
  return 2;
}

}  // namespace tenax::checkpoint
