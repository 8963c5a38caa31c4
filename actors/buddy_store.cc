#include "actors/buddy_store.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <variant>

namespace tenax::actors {

namespace {

/// Which of the two was sealed last; 1 if none was, so that 0 is written first.
int newest_of(const checkpoint::SlotPair& slots) {
  const auto zero = slots.header(0);
  const auto one = slots.header(1);
  if (!zero) return 1;
  if (!one) return 0;
  return std::tie(zero->generation, zero->step) > std::tie(one->generation, one->step) ? 0 : 1;
}

}  // namespace

BuddyStore::BuddyStore(const RunIdentity& identity, std::uint32_t agent)
    : run_id_(identity.id),
      secret_(identity.secret),
      agent_(agent),
      sockets_(identity.keys, [this](int, const std::string& peer,
                                     std::span<const std::byte> frame) { on(peer, frame); }) {}

BuddyStore::~BuddyStore() = default;

Result<std::unique_ptr<BuddyStore>> BuddyStore::open(const RunIdentity& identity,
                                                     const std::string& address,
                                                     std::uint32_t agent) {
  std::unique_ptr<BuddyStore> store(new BuddyStore(identity, agent));
  TENAX_TRY(const auto bound, store->sockets_.bind_router(fmt::format("tcp://{}:*", address)));
  store->socket_ = bound.socket;
  store->endpoint_ = bound.endpoint;
  return store;
}

std::string BuddyStore::prefix_of(Place place) const {
  return checkpoint::slot_prefix(run_id_, fmt::format("a{}.buddy.a{}", agent_, place.first),
                                 static_cast<int>(place.second));
}

void BuddyStore::answer(const std::string& peer, wire::BulkBody body) {
  sockets_.send(socket_, peer, wire::encode(wire::BulkMessage{secret_, std::move(body)}));
}

void BuddyStore::on(const std::string& peer, std::span<const std::byte> frame) {
  const auto message = wire::decode_bulk(frame);
  if (!message) {
    spdlog::warn("dropped a bulk frame: {}", message.error().message);
    return;
  }
  if (message->run_id != secret_) return;
  std::visit([&](const auto& body) { on(peer, body); }, message->body);
}

Result<BuddyStore::Copy*> BuddyStore::copy_for(const wire::BulkOffer& offer) {
  const Place place{offer.id.agent, offer.id.slot};
  Copy& copy = copies_[place];
  if (copy.slots && copy.slots->payload_bytes() != offer.payload_bytes) copy.slots.reset();
  if (!copy.slots) {
    TENAX_TRY(copy.slots, checkpoint::SlotPair::open(prefix_of(place), offer.payload_bytes));
    copy.newest = newest_of(*copy.slots);
  }
  return &copy;
}

void BuddyStore::on(const std::string& peer, const wire::BulkOffer& offer) {
  // An earlier copy of this slot that has not ended never will.
  std::erase_if(transfers_, [&](const auto& t) {
    return t.second.offer.id.agent == offer.id.agent && t.second.offer.id.slot == offer.id.slot;
  });
  const auto copy = copy_for(offer);
  if (!copy) {
    answer(peer, wire::BulkStored{offer.transfer, copy.error().message});
    return;
  }
  const int index = 1 - (*copy)->newest;
  transfers_[peer] = {offer, index, (*copy)->slots->begin(index), 0};
  answer(peer, wire::BulkCredit{offer.transfer, wire::kPieceWindow});
}

void BuddyStore::on(const std::string& peer, const wire::BulkPiece& piece) {
  const auto it = transfers_.find(peer);
  if (it == transfers_.end() || it->second.offer.transfer != piece.transfer) return;
  Transfer& t = it->second;
  const std::uint64_t size = t.offer.payload_bytes;
  if (piece.offset > size || piece.bytes.size() > size - piece.offset) {
    answer(peer, wire::BulkStored{piece.transfer, "a piece lies outside of the payload"});
    transfers_.erase(it);
    return;
  }
  std::memcpy(t.into.data() + piece.offset, piece.bytes.data(), piece.bytes.size());
  t.received += piece.bytes.size();
  answer(peer, wire::BulkCredit{piece.transfer, 1});
}

void BuddyStore::on(const std::string& peer, const wire::BulkSeal& seal) {
  const auto it = transfers_.find(peer);
  if (it == transfers_.end() || it->second.offer.transfer != seal.transfer) return;
  const Transfer t = it->second;
  transfers_.erase(it);
  Copy& copy = copies_.at({t.offer.id.agent, t.offer.id.slot});
  if (t.received != t.offer.payload_bytes) {
    answer(peer, wire::BulkStored{seal.transfer, fmt::format("expected {} bytes, got {}",
                                                             t.offer.payload_bytes, t.received)});
    return;
  }
  if (const Hash128 found = hash128(copy.slots->payload(t.index)); found != seal.hash) {
    answer(peer, wire::BulkStored{seal.transfer, fmt::format("expected hash {}, got {}",
                                                             seal.hash.hex(), found.hex())});
    return;
  }
  const checkpoint::SlotHeader header{t.offer.id.branch,     t.offer.id.step,
                                      t.offer.generation,    t.offer.incarnation,
                                      t.offer.payload_bytes, seal.hash};
  const Status sealed = copy.slots->seal(t.index, header);
  if (sealed) copy.newest = t.index;
  answer(peer, wire::BulkStored{seal.transfer, sealed ? std::string() : sealed.error().message});
}

void BuddyStore::on(const std::string& peer, const wire::BulkFetch& fetch) {
  wire::BulkFetched reply;
  reply.request = fetch.request;
  // By name, not by what this process was offered: copies outlive the agent that took them.
  const auto copy = checkpoint::find_sealed_slot(prefix_of({fetch.id.agent, fetch.id.slot}),
                                                 fetch.id.branch, fetch.id.step);
  if (!copy) {
    reply.error = fmt::format("agent {} has no such copy: {}", agent_, copy.error().message);
  } else {
    const auto payload = copy->payload();
    reply.payload_bytes = payload.size();
    if (fetch.offset <= payload.size() && fetch.bytes <= payload.size() - fetch.offset &&
        fetch.bytes <= wire::kPieceBytes) {
      reply.bytes.assign(reinterpret_cast<const char*>(payload.data()) + fetch.offset, fetch.bytes);
    } else {
      reply.error = "the range lies outside of the copy";
    }
  }
  answer(peer, std::move(reply));
}

}  // namespace tenax::actors
