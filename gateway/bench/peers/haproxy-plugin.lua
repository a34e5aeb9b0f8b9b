-- Reads one header and sets one on the way in; sets one on the way out.
core.register_action("add_region", { "http-req" }, function(txn)
    if txn.sf:req_hdr("x-blocked") == "yes" then
        txn:set_var("txn.refused", 1)
        return
    end
    txn.http:req_set_header("x-region", "eu-1")
end)

core.register_action("add_region_out", { "http-res" }, function(txn)
    txn.http:res_set_header("x-region", "eu-1")
end)
