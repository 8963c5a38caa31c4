#include "checkpoint/chunk_folder.h"

#include <dirent.h>
#include <fmt/format.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>

#include "checkpoint/files.h"
#include "checkpoint/rocks_db.h"

namespace tenax::checkpoint {

namespace {

constexpr std::string_view kSuffix = ".chunks";

std::optional<std::uint64_t> id_in(std::string_view name) {
  std::uint64_t id = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), id);
  if (error != std::errc() || end == name.data() + name.size() || *end != '-' ||
      !name.ends_with(kSuffix)) {
    return std::nullopt;
  }
  return id;
}

std::string last_component(const std::string& path) { return path.substr(path.rfind('/') + 1); }

}  // namespace

std::string chunk_file_header(std::uint64_t checkpoint_id, const std::string& writer) {
  std::string header = fmt::format("TNXC 1 {} {}\n", checkpoint_id, writer);
  header.resize(std::max<std::size_t>(header.size(), kChunkAlignment), '\0');
  return header;
}

std::string chunk_file_name(std::uint64_t checkpoint_id, const std::string& writer,
                            std::size_t index) {
  return fmt::format("{}-{}-{}{}", checkpoint_id, writer, index, kSuffix);
}

std::string chunks_path(const std::string& run_path) { return run_path + "/chunks"; }

std::shared_ptr<rocksdb::FileSystem> file_system_of(rocksdb::Env* env) {
  return env != nullptr ? env->GetFileSystem() : rocksdb::FileSystem::Default();
}

ChunkFolder::ChunkFolder(const std::string& run_path, rocksdb::Env* env)
    : path_(chunks_path(run_path)), files_(file_system_of(env)) {}

Status ChunkFolder::sync() const {
  std::unique_ptr<rocksdb::FSDirectory> directory;
  TENAX_RETURN_IF_ERROR(
      to_status(files_->NewDirectory(path_, rocksdb::IOOptions(), &directory, nullptr),
                "open directory", path_));
  return to_status(
      directory->FsyncWithDirOptions(rocksdb::IOOptions(), nullptr, rocksdb::DirFsyncOptions()),
      "sync directory", path_);
}

Status ChunkFolder::adopt(std::span<const std::string> paths) {
  for (const std::string& from : paths) {
    const std::string to = path_ + "/" + last_component(from);
    TENAX_RETURN_IF_ERROR(to_status(files_->RenameFile(from, to, rocksdb::IOOptions(), nullptr),
                                    "move " + from + " to", to));
  }
  return sync();
}

Status ChunkFolder::remove(std::uint64_t checkpoint_id) {
  TENAX_TRY(const auto all, list());
  bool any = false;
  for (const ChunkFileInfo& file : all) {
    if (file.checkpoint_id != checkpoint_id) continue;
    const std::string path = path_ + "/" + file.name;
    TENAX_RETURN_IF_ERROR(
        to_status(files_->DeleteFile(path, rocksdb::IOOptions(), nullptr), "remove", path));
    any = true;
  }
  return any ? sync() : Status();
}

Result<std::vector<ChunkFileInfo>> ChunkFolder::list() const {
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(path_.c_str()), ::closedir);
  if (!dir) return from_errno("list", path_, errno);
  std::vector<ChunkFileInfo> found;
  while (const dirent* entry = ::readdir(dir.get())) {
    const std::string name = entry->d_name;
    const auto id = id_in(name);
    struct stat info {};
    if (!id || ::stat((path_ + "/" + name).c_str(), &info) != 0) continue;
    found.push_back({name, *id, static_cast<std::uint64_t>(info.st_size)});
  }
  std::sort(found.begin(), found.end(),
            [](const ChunkFileInfo& a, const ChunkFileInfo& b) { return a.name < b.name; });
  return found;
}

}  // namespace tenax::checkpoint
