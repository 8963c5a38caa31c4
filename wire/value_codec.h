// The values of common/run_types.h in Cap'n Proto, both ways. Used by message.cc only. Pure
// functions.
#pragma once

#include <string>

#include "common/run_types.h"
#include "wire/protocol.capnp.h"

namespace tenax::wire {

std::string text(capnp::Text::Reader t);
std::string bytes(capnp::Data::Reader d);
capnp::Data::Reader as_data(const std::string& s);
void write(schema::StepReport::Builder b, const StepReport& r);
StepReport read(schema::StepReport::Reader b);
void write(schema::GuardState::Builder b, const GuardState& s);
GuardState read(schema::GuardState::Reader b);
void write(schema::RankState::Builder b, const RankState& s);
RankState read(schema::RankState::Reader b);
void write(schema::Plan::Builder b, const Plan& p);
Plan read(schema::Plan::Reader b);

}  // namespace tenax::wire
