#include "wire/bulk_message.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "wire/bulk.capnp.h"

namespace tenax::wire {

namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

capnp::Data::Reader data(const std::string& bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}

std::string text(capnp::Data::Reader bytes) {
  return {reinterpret_cast<const char*>(bytes.begin()), bytes.size()};
}

void write(schema::SlotId::Builder b, const SlotId& id) {
  b.setAgent(id.agent);
  b.setSlot(id.slot);
  b.setBranch(id.branch);
  b.setStep(id.step);
}

SlotId read(schema::SlotId::Reader b) {
  return {b.getAgent(), b.getSlot(), b.getBranch(), b.getStep()};
}

void write_body(schema::Bulk::Builder to, const BulkBody& body) {
  std::visit(Overloaded{[&](const BulkOffer& m) {
                          auto b = to.initOffer();
                          b.setTransfer(m.transfer);
                          write(b.initId(), m.id);
                          b.setGeneration(m.generation);
                          b.setIncarnation(m.incarnation);
                          b.setPayloadBytes(m.payload_bytes);
                        },
                        [&](const BulkCredit& m) {
                          auto b = to.initCredit();
                          b.setTransfer(m.transfer);
                          b.setPieces(m.pieces);
                        },
                        [&](const BulkPiece& m) {
                          auto b = to.initPiece();
                          b.setTransfer(m.transfer);
                          b.setOffset(m.offset);
                          b.setBytes(data(m.bytes));
                        },
                        [&](const BulkSeal& m) {
                          auto b = to.initSeal();
                          b.setTransfer(m.transfer);
                          b.setHashHigh(m.hash.high);
                          b.setHashLow(m.hash.low);
                        },
                        [&](const BulkStored& m) {
                          auto b = to.initStored();
                          b.setTransfer(m.transfer);
                          b.setError(m.error);
                        },
                        [&](const BulkFetch& m) {
                          auto b = to.initFetch();
                          b.setRequest(m.request);
                          write(b.initId(), m.id);
                          b.setOffset(m.offset);
                          b.setBytes(m.bytes);
                        },
                        [&](const BulkFetched& m) {
                          auto b = to.initFetched();
                          b.setRequest(m.request);
                          b.setError(m.error);
                          b.setBytes(data(m.bytes));
                          b.setPayloadBytes(m.payload_bytes);
                        }},
             body);
}

Result<BulkBody> read_body(schema::Bulk::Reader from) {
  using B = schema::Bulk;
  switch (from.which()) {
    case B::OFFER: {
      const auto b = from.getOffer();
      return BulkBody(BulkOffer{b.getTransfer(), read(b.getId()), b.getGeneration(),
                                b.getIncarnation(), b.getPayloadBytes()});
    }
    case B::CREDIT: {
      const auto b = from.getCredit();
      return BulkBody(BulkCredit{b.getTransfer(), b.getPieces()});
    }
    case B::PIECE: {
      const auto b = from.getPiece();
      return BulkBody(BulkPiece{b.getTransfer(), b.getOffset(), text(b.getBytes())});
    }
    case B::SEAL: {
      const auto b = from.getSeal();
      return BulkBody(BulkSeal{b.getTransfer(), {b.getHashHigh(), b.getHashLow()}});
    }
    case B::STORED: {
      const auto b = from.getStored();
      return BulkBody(BulkStored{b.getTransfer(), b.getError().cStr()});
    }
    case B::FETCH: {
      const auto b = from.getFetch();
      return BulkBody(BulkFetch{b.getRequest(), read(b.getId()), b.getOffset(), b.getBytes()});
    }
    case B::FETCHED: {
      const auto b = from.getFetched();
      return BulkBody(BulkFetched{b.getRequest(), b.getError().cStr(), text(b.getBytes()),
                                  b.getPayloadBytes()});
    }
  }
  return make_error(ErrorCode::kUnsupported, "bulk frame has a member of a newer version");
}

}  // namespace

std::string encode(const BulkMessage& message) {
  capnp::MallocMessageBuilder builder;
  auto bulk = builder.initRoot<schema::Bulk>();
  bulk.setRunId(message.run_id);
  write_body(bulk, message.body);
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  const auto bytes = words.asBytes();
  return {reinterpret_cast<const char*>(bytes.begin()), bytes.size()};
}

Result<BulkMessage> decode_bulk(std::span<const std::byte> frame) {
  if (frame.size() > 2 * kPieceBytes || frame.size() % sizeof(capnp::word) != 0) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("bulk frame of {} bytes: expected whole words, at most {} bytes",
                                  frame.size(), 2 * kPieceBytes));
  }
  auto words = kj::heapArray<capnp::word>(frame.size() / sizeof(capnp::word));
  if (!frame.empty()) std::memcpy(words.asBytes().begin(), frame.data(), frame.size());
  try {
    capnp::FlatArrayMessageReader reader(words);
    const auto bulk = reader.getRoot<schema::Bulk>();
    TENAX_TRY(BulkBody body, read_body(bulk));
    return BulkMessage{bulk.getRunId().cStr(), std::move(body)};
  } catch (const kj::Exception& e) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("bulk frame of {} bytes is malformed: {}", frame.size(),
                                  std::string(e.getDescription().cStr())));
  }
}

}  // namespace tenax::wire
