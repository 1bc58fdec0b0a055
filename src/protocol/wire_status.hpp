// What members report of themselves and what an observer is answered, as Protocol Buffers.
#pragma once

#include "proto/weightcast.pb.h"
#include "protocol/message.hpp"

namespace weightcast::protocol {

// Texts beyond kMaxReasonBytes are cut.
void write(const Run& run, wire::Run& out);
void write(const Version& version, wire::Version& out);
void write(const SourceReport& report, wire::SourceReport& out);
void write(const ReceiverReport& report, wire::ReceiverReport& out);
void write(const JobStatus& status, wire::JobStatus& out);

Run read(const wire::Run& in);
Version read(const wire::Version& in);
/// Each checks everything; check_limits() has counted the lists. @return kInvalid
Status read(const wire::SourceReport& in, SourceReport& out);
Status read(const wire::ReceiverReport& in, ReceiverReport& out);
Status read(const wire::JobStatus& in, JobStatus& out);

}  // namespace weightcast::protocol
