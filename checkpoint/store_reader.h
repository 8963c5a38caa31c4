// A store read from another process, while its owner works or after it died.
#pragma once

#include <memory>
#include <string>

#include "checkpoint/pin.h"
#include "checkpoint/store_view.h"
#include "common/result.h"

namespace tenax::checkpoint {

/// A snapshot as of open_read_only(): later commits are not seen, and removed checkpoints give
/// kDataLoss or kNotFound when read. To restore from a live store: pin() the checkpoint, then open,
/// then look for its manifest.
class StoreReader final : public StoreView {
 public:
  /// Takes no lock, writes nothing, reads no tensor bytes: milliseconds. Where a record of the
  /// journal is damaged the journal ends before it, which only the owner's Store::open() reports.
  /// kNotFound: no store; kUnavailable: it kept changing while being opened.
  static Result<std::unique_ptr<StoreReader>> open_read_only(const std::string& run_path);

  /// Keeps the checkpoint from being removed while the pin lives; a second process's look at it is
  /// kNotFound if that was too late.
  Result<Pin> pin(std::uint64_t checkpoint_id) const;

 private:
  StoreReader(std::string path, std::unique_ptr<Database> database);
};

}  // namespace tenax::checkpoint
