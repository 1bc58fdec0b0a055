// A member's report of itself, and what a JobStatus shows of it: the same fields.
#pragma once

#include "protocol/message.hpp"

namespace weightcast::protocol {

void fill(JobStatus::Trainer& trainer, const SourceReport& report);
void fill(JobStatus::Engine& engine, const ReceiverReport& report);

SourceReport report_of(const JobStatus::Trainer& trainer);
ReceiverReport report_of(const JobStatus::Engine& engine);

}  // namespace weightcast::protocol
